"""jaxpose: human pose regression in JAX. Import the module you need; this file imports nothing."""
