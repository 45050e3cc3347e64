"""How the embedded text-to-image model was made: a Stable Diffusion in miniature, trained on two CPU cores.

Its parts are those of Stable Diffusion 1.x (AutoencoderKL, U-Net with cross-attention, CLIP text encoder, tokenizer),
each small, so that it is saved as a StableDiffusionPipeline folder and loads through the same code.
"""
