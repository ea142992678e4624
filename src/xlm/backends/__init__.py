"""How models compute: one folder a framework, which never import each other."""
