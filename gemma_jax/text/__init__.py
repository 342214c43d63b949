"""Text: tokenizers, chats, spans of tokens, padded batches."""
