# Sourced by `enroot start --conf`: the variables of the job that its container gets beside the image's own.
environ() {
  env | grep -E '^(SLURM[A-Z]*_|MASTER_|OMP_|NCCL_|CUDA_|NVIDIA_|FMCT_|TMPDIR=|http_proxy=|https_proxy=|no_proxy=)' || true
}
