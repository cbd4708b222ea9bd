"""What all commands share: exit codes, terminal output, spelling of options."""
