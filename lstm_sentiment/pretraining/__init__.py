"""Language models on unlabelled text (command `pretrain`)."""
