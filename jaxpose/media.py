"""Former name of `jaxpose.predict.media`, for scripts that import it."""

from __future__ import annotations

from jaxpose.predict.media import Video, VideoWriter, picture, save_picture, video

__all__ = ["Video", "VideoWriter", "picture", "save_picture", "video"]
