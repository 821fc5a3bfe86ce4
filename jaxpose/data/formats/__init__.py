"""Label formats: a module for each, that finds, reads and checks the files of one kind of data set.

``coco``: COCO's JSON, of any skeleton. ``mpii``: MPII's, as HRNet and mmpose have it. ``crowdpose``: CrowdPose's. ``layout``:
what the three share in finding files.
"""
