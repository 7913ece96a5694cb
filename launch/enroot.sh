# Sourced by `enroot start --conf`: the job's variables that are passed to the container, in addition to the image's.
environ() {
  env | grep -E '^(SLURM[A-Z]*_|MASTER_|OMP_|NCCL_|CUDA_|NVIDIA_|FMCT_|TMPDIR=|http_proxy=|https_proxy=|no_proxy=)' || true
}
