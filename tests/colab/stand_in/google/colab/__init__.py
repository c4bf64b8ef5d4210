"""Stands in for Colab's own package: that its kernel has loaded this name is how a notebook knows where it runs."""
