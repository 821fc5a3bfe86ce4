"""From a COCO folder to batches of crops.

``coco`` reads and checks an image folder with its annotation JSON, ``builder`` prepares it once as a TFDS data set with
random access, ``augment`` holds the published augmentation settings, ``pipeline`` turns either source into batches
(the only importer of TensorFlow), ``masks`` draws the regions to leave out of an image-level loss, ``synthetic``
makes people up.
"""
