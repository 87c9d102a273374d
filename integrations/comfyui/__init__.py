"""Custom nodes for ComfyUI, in its V3 schema."""

from .nodes import comfy_entrypoint

__all__ = ['comfy_entrypoint']
