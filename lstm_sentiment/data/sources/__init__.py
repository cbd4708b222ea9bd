"""Where rows come from: files, archives, installed packages, URLs."""
