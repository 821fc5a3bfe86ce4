"""From an annotated folder to batches of crops, or of whole images.

``formats`` holds one module per label format, which finds, reads and checks a folder and returns a ``source`` of persons
and images. ``boxes`` replaces its boxes by a detector's; ``builder`` prepares it once as a TFDS data set with random
access. ``augment`` holds the published augmentation settings; ``crops`` turns any source into batches of persons,
``whole_images`` into batches of images, ``boxed_images`` into batches of images with the boxes of their people, all through
``feed``, the only importer of TensorFlow. ``masks`` draws the regions to leave out of an image-level loss, ``pixels`` reads and
decodes JPEG files, ``checks`` describes what is wrong with an entry of a label file, ``synthetic`` draws artificial people,
``command`` implements `jaxpose prepare` and `jaxpose synthetic`.

``coco``, ``mpii``, ``crowdpose``, ``pipeline`` and ``images`` are former names of modules, kept for scripts that import
them.
"""
