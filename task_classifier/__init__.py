"""What `model.py` is made of: Label Studio's tasks and annotations ⇄ the classifier's images and labels."""
