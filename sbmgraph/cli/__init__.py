"""Commands over training and Hugging Face together; those of training alone stand beside it."""
