# What every batch script of fmct does before and after its command. The scripts of `fmct launch` and the files of
# launch/sbatch source it (`fmct launch job-script` prints its path). Queued jobs refer to its path.
#
#   fmct_begin ARGUMENT...     environment of the command; the job must not continue if its last start says so
#   fmct_run COMMAND...        run the command by srun, and end with its exit code
#   fmct_end CODE [OPTION...]  queue the job again after a failure, or log why not; exit with CODE
#
# ARGUMENTs are those of `fmct launch before` and `after`: --folder, for the records of the job, or those of
# `fmct train`. In their folder the command's stage also registers its ledgers (shards/progress.py).

# Nothing is imported from the working folder, which an empty entry of PYTHONPATH would mean.
export PYTHONSAFEPATH=1 PYTHONPATH=$(sed "s/::*/:/g; s/^://; s/:$//" <<< "${PYTHONPATH:-}")
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
fmct_program=(fmct)

# Rank 0 listens on the job's first node, at the address that Slurm uses for that node (its name may not resolve), on a
# port that no other job has and that Linux does not assign (launch/ranks.py).
fmct_rendezvous() {
  local first pause
  first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  for pause in 0 5 15 30; do # a busy slurmctld may not answer at once; the fallback is the node's name
    sleep "$pause"
    MASTER_ADDR=$(scontrol --oneliner show node "$first" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p') || true
    [ -z "$MASTER_ADDR" ] || break
  done
  export MASTER_ADDR="${MASTER_ADDR:-$first}" MASTER_PORT=$((20000 + SLURM_JOB_ID % 12000))
}

# The part of the work of this array task, as options in the array `part`: a share of all tasks in an
# array 0-N of any size; otherwise, as in an array of unfinished numbers, the task with its number.
fmct_part() {
  part=()
  [ -n "${SLURM_ARRAY_TASK_ID:-}" ] || return 0
  part=(--task "$SLURM_ARRAY_TASK_ID")
  if [ "$SLURM_ARRAY_TASK_MIN" = 0 ] && [ "$SLURM_ARRAY_TASK_COUNT" = $((SLURM_ARRAY_TASK_MAX + 1)) ]; then
    part=(--share "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT")
  fi
}

fmct_begin() {
  fmct_arguments=("$@")
  fmct_job=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}
  FMCT_LOG=$(scontrol show job "$fmct_job" | sed -n 's/^ *StdOut=//p') || true
  export FMCT_LOG
  [ "${1:-}" != --folder ] || export FMCT_LEDGERS="$2/$fmct_job.ledgers.json"
  # Marks in the log where this start begins.
  echo "fmct: job $fmct_job, start ${SLURM_RESTART_COUNT:-0}, on $SLURM_JOB_NODELIST"
  [ -z "${SLURM_RESTART_COUNT:-}" ] || "${fmct_program[@]}" launch before "$@" || exit 2
}

fmct_end() {
  local code=$1
  shift
  [ "$code" = 0 ] || "${fmct_program[@]}" launch after "${fmct_arguments[@]}" --code "$code" "$@"
  exit "$code"
}

# --export: the command gets this script's environment, whatever sbatch's --export was.
# --wait: ranks end together; ranks that still wait this long after one has ended are ended too.
# --cpus-per-task: srun does not take it from sbatch (since Slurm 22.05).
fmct_run() {
  local code=0
  srun --export=ALL --wait=120 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" "$@" || code=$?
  fmct_end "$code"
}
