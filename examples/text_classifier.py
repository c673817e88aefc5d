"""A Hugging Face text classifier: tokens pooled by the attention mask.

Needs `pip install transformers`. The network here is small, its weights are random and its words
are made up, so that nothing is downloaded; yours comes from
`AutoModelForSequenceClassification.from_pretrained(folder)`, with its `AutoTokenizer`.
"""

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.data import DataLoader
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
)

import underscript as us

TOPICS = {
    "kitchen": "bake boil chop dough flour garlic knife oven pepper roast salt simmer spoon stew",
    "sea": "anchor boat coral deck fish harbour island mast sail shore storm tide wave whale",
    "music": "bass chord drum flute guitar melody note opera piano rhythm singer song tune violin",
}
COMMON = "a and before day every good in is it long near of often old on one that the we with"

# Sentences of four to twelve words, and their topics; of the labels 40 % are redrawn.
rng = np.random.default_rng(0)
true = rng.integers(0, len(TOPICS), 900)
words = [f"{words} {COMMON}".split() for words in TOPICS.values()]
texts = [" ".join(rng.choice(words[topic], rng.integers(4, 13))) for topic in true]
labels = us.corrupt_labels(true, 0.4, seed=0)

vocabulary = ["[PAD]", "[UNK]", *sorted({word for text in texts for word in text.split()})]
split = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, "[UNK]"))
split.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=split, pad_token="[PAD]", unk_token="[UNK]")

torch.manual_seed(0)
model = BertForSequenceClassification(
    BertConfig(
        vocab_size=len(vocabulary),
        num_labels=len(TOPICS),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
)

# From here on it is your model, your tokenizer and your texts.
samples = [
    {**tokenizer(text, return_token_type_ids=False), "labels": int(label)}
    for text, label in zip(texts, labels, strict=True)
]
train, test = samples[:600], samples[600:]
for sample, label in zip(test, true[600:], strict=True):
    sample["labels"] = int(label)
padded = DataCollatorWithPadding(tokenizer)  # to the longest text of each batch

optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
for _ in range(25):
    for batch in DataLoader(train, batch_size=50, shuffle=True, collate_fn=padded):
        optimiser.zero_grad()
        model(**batch).loss.backward()
        optimiser.step()

decoding = us.decode(
    model,
    DataLoader(train, batch_size=100, collate_fn=padded),
    test=DataLoader(test, batch_size=100, collate_fn=padded),
    pool=("first", "mean"),  # the default is the mean alone
)
print(decoding.verdict)
print(decoding.best.layers)

issues = decoding.label_issues().sort_values("label_quality").head(5)
for index, row in issues.iterrows():
    given, better = (list(TOPICS)[row[f"{kind}_label"]] for kind in ("given", "predicted"))
    print(f"{given} should be {better}: {texts[index]}")
