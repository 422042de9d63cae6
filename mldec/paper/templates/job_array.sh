#!/bin/bash
#SBATCH --job-name=mldec-$name
#SBATCH --array=0-$last
#SBATCH --ntasks=1
#SBATCH --gpus=$gpus
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.log
tasks=(
$tasks
)
eval "$${tasks[$$SLURM_ARRAY_TASK_ID]}"
