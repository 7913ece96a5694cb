"""From candidates to finished volumes: checks, defacing, and the choice of the candidates to build."""
