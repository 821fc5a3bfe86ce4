"""Folders in buckets (``gs://``, ``s3://``): copied to and from this machine with digests, locked, and named like paths.

A bucket is no file system. It has no locks, no renames and no appends, and an object is either whole or absent. What a run needs of
those has a replacement here:

    lock      `only_one`: an object that is written only if its generation is the expected one, and renewed while its owner lives
    rename    none is needed: objects appear when they are whole, and the list of a folder's digests comes last (`send`)
    append    `Mirror`: a log grows by parts, which are joined when it is read and replaced by one object at the end

Reading goes the other way: `fetch` copies a folder to this machine once, a file at a time under a name that is not read, checks its
digest, and renames it; whatever is there already and unchanged is not copied again.

`place` turns a URL into a path object with the methods of `pathlib.Path` (`etils.epath`), for whoever reads or writes single files;
orbax takes it too. gs:// needs gcsfs (``pip install "jaxpose[gcs]"``), s3:// s3fs. Only the standard library is imported until then.

    store       URLs and path objects, requests that are repeated, listings, single objects
    copies      folders there and back
    mirror      a folder of this machine that stands for one of a bucket
    lock        one process a folder
"""

from jaxpose.buckets.copies import CACHE, CONTENTS, FETCHED, fetch, here, local_copy, send
from jaxpose.buckets.lock import only_one
from jaxpose.buckets.mirror import Mirror, mirrored, origin
from jaxpose.buckets.store import digests, is_url, move, naming, place, put, url_of

__all__ = [
    "CACHE",
    "CONTENTS",
    "FETCHED",
    "Mirror",
    "digests",
    "fetch",
    "here",
    "is_url",
    "local_copy",
    "mirrored",
    "move",
    "naming",
    "only_one",
    "origin",
    "place",
    "put",
    "send",
    "url_of",
]
