"""Cryo-EM: stages from movies to classes and tomograms, recipes, records, projects."""
