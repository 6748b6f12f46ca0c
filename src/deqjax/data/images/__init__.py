"""Images: data sets by name, their augmentation, and batches of them.

`deqjax.data` re-exports what users need. Knows nothing of text and of models.
"""
