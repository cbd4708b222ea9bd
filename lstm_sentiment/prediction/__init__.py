"""Prediction with a trained run: classifier, labelled files, model card, Hugging Face Hub."""
