"""The parts of `model.py`: tasks → labeled images, training runs, a version's files, predictions and pools."""
