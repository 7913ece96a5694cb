"""From candidates to finished volumes: the checks, defacing, and which candidate of a study is built."""
