"""TensorFlow's operations with exact, fast derivatives of any order."""
