"""A trained policy as a folder that others can play and load, here and on the Hugging Face Hub."""
