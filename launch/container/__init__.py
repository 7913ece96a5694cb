"""The program of the container (Dockerfile, fmct.def): features or predictions of a folder of exams."""
