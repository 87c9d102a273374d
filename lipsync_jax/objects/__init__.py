"""Objects before mouths, such as hands and microphones: found and kept whole.

`covered_mouth` wraps a renderer and gives the pixels of what `object_finder`
finds their old values back.
"""
