#!/bin/bash
#SBATCH --job-name=shoal
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --requeue
# Starts Ray on every node, then runs the job on the first. Submitted again it goes on from the
# journal. Environment, model, input and output are where all nodes see them.
set -euo pipefail

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
port=6379

srun --nodes=1 --ntasks=1 --overlap --nodelist="$head" \
  ray start --head --port="$port" --block &
sleep 20
if (( ${#nodes[@]} > 1 )); then
  srun --nodes=$(( ${#nodes[@]} - 1 )) --ntasks=$(( ${#nodes[@]} - 1 )) --overlap \
    --exclude="$head" ray start --address="$head:$port" --block &
  sleep 20
fi

srun --nodes=1 --ntasks=1 --overlap --nodelist="$head" \
  shoal run in.jsonl --output out.jsonl --model /shared/model --device cuda --ray "$head:$port"
