"""The fixed training of MGM stage 1: pre-train the projector, then finetune everything but the towers."""
