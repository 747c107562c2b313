"""How the embedded model and its scorers were trained."""
