"""Former name of `jaxpose.predict.media` and of `jaxpose.view.overlay.draw`, for scripts that import it."""

from __future__ import annotations

from jaxpose.predict.media import Video, VideoWriter, picture, save_picture, video
from jaxpose.view.overlay import draw

__all__ = ["Video", "VideoWriter", "draw", "picture", "save_picture", "video"]
