"""Does a latent know, or does it count tokens? What else could explain it.

readers      latents and directions, read at entities and in plain text
people       prompts about entities: as they are, renamed, under a wrong type
covariates   what a name is like: its tokens, how likely, how frequent
strata       known against unknown names that are alike
adjusting    the same by regression
baselines    what the tokens of names tell without any model
likelihood   latents against the probability of the token they read
reselection  the whole selection again: with shuffled labels, on other splits
matching     the same latents in other SAEs
stages, chat_stages   models run, and what is kept
plan, study, measuring   what is needed, what is computed, all of it
"""
