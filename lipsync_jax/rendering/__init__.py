"""Frames with new mouths: schedules, the two mouth renderers, compositing.

A `renderer.RenderPlan` says which source frame each output frame shows and who
speaks in it. `mesh_renderer` moves the source's own pixels; `network_renderer`
paints with a generator.
"""
