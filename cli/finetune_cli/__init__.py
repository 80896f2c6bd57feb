"""The `finetune` command, also installed as `kubectl-finetune`: what a user does beside kubectl."""
