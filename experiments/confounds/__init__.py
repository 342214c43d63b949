"""Does a latent know, or does it count tokens? What else could explain it.

linear_readout        latents and directions, read at entities and in plain text
prompt_variants       entities as they are, renamed, under a wrong type
covariates            what a name is like: its tokens, how likely, how frequent
strata                known against unknown names that are alike
adjusting             the same by regression
baselines             what the tokens of names tell without any model
likelihood            latents against the probability of the token they read
reselection           the whole selection again: shuffled labels, other splits
matching              the same latents in other SAEs
settings, plan        what a check is told, and what it opens
stages, chat_stages   models run, and what is kept
study, measuring      numbers from what was read, and all of it
summary, page         the answer in sentences, and in sections
figures, tables       what the page shows
"""
