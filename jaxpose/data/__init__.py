"""From an annotated folder to batches of crops, or of whole images.

``coco`` reads and checks an image folder with its annotation JSON, ``mpii`` does so where the JSON is MPII's,
``crowdpose`` where it is CrowdPose's (``layout`` is what the three share in finding files), ``builder`` prepares any of
them once as a TFDS data set with random access, ``augment`` holds the published augmentation settings, ``pipeline``
turns any of these sources into batches of persons (the only importer of TensorFlow), ``images`` into batches of whole
images, ``masks`` draws the regions to leave out of an image-level loss, ``synthetic`` makes people up.
"""
