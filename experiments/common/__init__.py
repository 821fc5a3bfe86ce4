"""What the pages share: settings, the training loop, kinds of data, families of tasks, the log."""
