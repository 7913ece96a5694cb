"""What the container of Dockerfile and fmct.def runs: a folder of exams in, features or predictions out."""
