#!/bin/sh
# Trains one stage on several nodes under SLURM; the run's folder must be on a disk that all of them see.
#
#     sbatch --nodes 4 tools/recipes/slurm.sh configs/dalle2/decoder.yaml --out /shared/runs/decoder
#
# SLURM starts one trainer per GPU itself: a launcher between them would not hand its signals on. Five minutes before the
# time is up, or when the job is preempted, the run saves and ends, the job is queued again, and goes on exactly.
# For sharded weights (see configs/accelerate/fsdp2.yaml) add the four lines marked FSDP2.
#SBATCH --job-name=unclip
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append

set -eu
trap '' USR1 # the trainers' business
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=29500
export MASTER_ADDR MASTER_PORT
# FSDP2: export ACCELERATE_USE_FSDP=true FSDP_VERSION=2
# FSDP2: export FSDP_AUTO_WRAP_POLICY=TRANSFORMER_BASED_WRAP
# FSDP2: export FSDP_RESHARD_AFTER_FORWARD=true
# FSDP2: export FSDP_CPU_RAM_EFFICIENT_LOADING=false
srun --kill-on-bad-exit=1 sh -c '
    RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE
    export RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE
    exec unclip train "$@"' unclip "$@"
# It ends well when it is finished or was told to stop; in the latter case the job is queued again.
while [ "$1" != --out ]; do shift; done
if ! unclip info "$2" | grep -q '^state: finished'; then scontrol requeue "$SLURM_JOB_ID"; fi
