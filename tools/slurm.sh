#!/bin/sh
# Trains one stage on several nodes under SLURM; the run's folder must be on a disk that all of them see.
#
#     sbatch --nodes 4 tools/slurm.sh configs/dalle2/decoder.yaml --out /shared/runs/decoder
#
# Two minutes before the time is up, or when it is preempted, the run saves and the job is queued again: it goes on exactly.
#SBATCH --job-name=unclip
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

set -eu
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
gpus=${SLURM_GPUS_ON_NODE:-8}
stopped=$(mktemp)
trap 'echo yes > "$stopped"' USR1 TERM
# Each node's task reads its own rank; SLURM's signals reach every process of the step.
srun --kill-on-bad-exit=1 sh -c 'exec accelerate launch \
    --multi_gpu --num_machines "$SLURM_NNODES" --num_processes "$(($SLURM_NNODES * '"$gpus"'))" \
    --machine_rank "$SLURM_NODEID" --main_process_ip '"$head"' --main_process_port 29500 --rdzv_backend static \
    --mixed_precision no --dynamo_backend no -m unclip train "$@"' sh "$@" &
step=$!
while kill -0 "$step" 2>/dev/null; do wait "$step" || true; done
if [ -s "$stopped" ]; then scontrol requeue "$SLURM_JOB_ID"; fi
