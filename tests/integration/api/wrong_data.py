"""Wrong models, data sources, preparation and stores: what is wrong, the change to a right job, and what the API server says."""

from __future__ import annotations

from typing import Any

ROWS = "s3://data/train.jsonl"
MODEL_MESSAGE = (
    "model.source must be hf://org/name, modelscope://org/name, s3://bucket/prefix or pvc://claim/path"
)
DATA_MESSAGE = "dataset source must be s3://bucket/key, hf://org/name"


def train(**source: Any) -> dict[str, Any]:
    """One training source: rows in the store unless `source` says otherwise."""
    return {"dataset__train": [{"source": ROWS, **source}]}


def augmentation(word_list: str, *methods: str) -> dict[str, Any]:
    """Changed copies by words of a list."""
    return {
        "dataset__preparation__augment": {"methods": list(methods or ("Synonyms",)), "wordList": word_list}
    }


def classification(**changes: Any) -> dict[str, Any]:
    """A right classification job with changes."""
    return {"task": "SequenceClassification", "labels": ["no", "yes"], **changes}


WRONG_TASKS: list[tuple[str, dict[str, Any], str]] = [
    ("an unknown task", {"task": "Translation"}, 'Unsupported value: "Translation"'),
    (
        "labels without classification",
        {"labels": ["no", "yes"]},
        "labels and task: SequenceClassification belong together",
    ),
    (
        "classification without labels",
        {"task": "SequenceClassification"},
        "labels and task: SequenceClassification belong together",
    ),
    ("one label", classification(labels=["yes"]), "spec.labels in body should have at least 2 items"),
    ("the same label twice", classification(labels=["yes", "yes"]), 'Duplicate value: "yes"'),
    ("an empty label", classification(labels=["", "yes"]), "spec.labels[0]"),
    (
        "classification of conversations",
        classification(**train(format="Messages")),
        "task SequenceClassification learns rows of format Classification",
    ),
    (
        "classification with a system prompt",
        classification(dataset__systemPrompt="Be brief."),
        "task SequenceClassification reads texts, not conversations: remove dataset.systemPrompt",
    ),
    (
        "classification that learns all tokens",
        classification(dataset__lossOn="All"),
        "remove dataset.systemPrompt, dataset.chatTemplate and dataset.lossOn",
    ),
    (
        "packed classification",
        classification(training__packing="Enabled"),
        "training.packing Enabled does not work with task SequenceClassification",
    ),
    (
        "BLEU of classes",
        classification(evaluation__metrics=["BLEU"], dataset__validation={"fraction": 0.1}),
        "evaluation.metrics cannot hold Perplexity, ExactMatch, BLEU, ChrF or ROUGE",
    ),
    (
        "early stopping by the F1 of texts",
        {"training__earlyStopping": {"metric": "F1"}, "dataset__validation": {"fraction": 0.1}},
        "training.earlyStopping.metric Accuracy and F1 are for task SequenceClassification",
    ),
]

WRONG_MODELS: list[tuple[str, dict[str, Any], str]] = [
    ("no model", {"model": ...}, "spec.model: Required value"),
    ("a model without source", {"model": {}}, "spec.model.source: Required value"),
    ("a model with a bare path", {"model__source": "/models/base"}, MODEL_MESSAGE),
    ("a bucket in capitals", {"model__source": "s3://Models/base"}, MODEL_MESSAGE),
    ("a model on the web", {"model__source": "https://example.com/base"}, MODEL_MESSAGE),
    ("a hub's model without organisation", {"model__source": "hf://gpt2"}, MODEL_MESSAGE),
    (
        "a hub's model with a revision in its name",
        {"model__source": "hf://Qwen/Qwen3-0.6B@main"},
        MODEL_MESSAGE,
    ),
    ("a claim's path that climbs", {"model__source": "pvc://models/../etc"}, MODEL_MESSAGE),
    ("a claim in capitals", {"model__source": "pvc://Models/base"}, MODEL_MESSAGE),
    ("a file of the node", {"model__source": "file:///models/base"}, MODEL_MESSAGE),
    ("a source of 1,100 characters", {"model__source": "s3://models/" + "a" * 1100}, "spec.model.source"),
    (
        "a revision of a store's model",
        {"model__revision": "main"},
        "model.revision is a version of a hub's repository, but model.source is not hf:// or modelscope://",
    ),
    (
        "a revision with a space",
        {"model": {"source": "hf://Qwen/Qwen3-0.6B", "revision": "my branch"}},
        "model.revision must be a branch, a tag or a commit",
    ),
    (
        "a hub's token for a store's model",
        {"model__tokenSecretRef": {"name": "hub"}},
        "model.tokenSecretRef is for a hub, but neither model.source nor adapterSource",
    ),
    (
        "a token's key with a slash",
        {"model": {"source": "hf://Qwen/Qwen3-0.6B", "tokenSecretRef": {"name": "hub", "key": "../x"}}},
        "spec.model.tokenSecretRef.key",
    ),
    (
        "a store for a hub's model",
        {"model": {"source": "hf://Qwen/Qwen3-0.6B", "store": {"region": "eu"}}},
        "model.store is for an s3:// source, but neither model.source nor adapterSource is s3://",
    ),
    (
        "an adapter with a bare path",
        {"model__adapterSource": "adapters/law"},
        "model.adapterSource must be hf://",
    ),
    ("remote code as text", {"model__trustRemoteCode": "yes"}, "spec.model.trustRemoteCode"),
    (
        "an adapter for full training",
        {"method": {"type": "Full"}, "model__adapterSource": "s3://models/law"},
        "model.adapterSource goes on from an adapter, but method.type Full trains the whole model",
    ),
    (
        "an adapter that PiSSA would replace",
        {"method__lora": {"variant": "PiSSA"}, "model__adapterSource": "s3://models/law"},
        "model.adapterSource goes on from an adapter, but method.lora.variant PiSSA starts a new one",
    ),
    (
        "an adapter and an earlier run",
        {"resumeFrom": {"run": "bot-0123abcd"}, "model__adapterSource": "s3://models/law"},
        "model.adapterSource and resumeFrom both say where training starts",
    ),
]

WRONG_STORES: list[tuple[str, dict[str, Any], str]] = [
    (
        "an endpoint without scheme",
        {"output__store__endpoint": "s3.example.com"},
        "store.endpoint must be a URL of scheme, host and port",
    ),
    (
        "an endpoint with a path",
        {"output__store__endpoint": "https://s3.example.com/bucket"},
        "store.endpoint must be a URL of scheme, host and port",
    ),
    ("a region in capitals", {"output__store__region": "EU"}, "spec.output.store.region"),
    ("an unknown addressing", {"output__store__addressing": "Host"}, 'Unsupported value: "Host"'),
    ("an unknown way of checksums", {"output__store__checksums": "Never"}, 'Unsupported value: "Never"'),
    (
        "a secret name in capitals",
        {"output__store__credentialsSecretRef": {"name": "S3"}},
        "spec.output.store.credentialsSecretRef.name",
    ),
    (
        "a secret's key chosen by the user",
        {"output__store__credentialsSecretRef": {"name": "s3", "key": "x"}},
        'unknown field "spec.output.store.credentialsSecretRef.key"',
    ),
    (
        "certificates without an endpoint",
        {"output__store__caBundleRef": {"name": "ca"}},
        "store.caBundleRef is for a store.endpoint that begins with https://",
    ),
    (
        "certificates for plain HTTP",
        {"output__store": {"endpoint": "http://s3.example.com", "caBundleRef": {"name": "ca"}}},
        "store.caBundleRef is for a store.endpoint that begins with https://",
    ),
    (
        "an unknown encryption",
        {"output__store__encryption": "GPG"},
        "store.encryption must be AES256, KMS or KMS:<key>",
    ),
]

WRONG_DATA: list[tuple[str, dict[str, Any], str]] = [
    ("no data set", {"dataset": ...}, "spec.dataset: Required value"),
    ("no training source", {"dataset__train": []}, "spec.dataset.train"),
    ("33 training sources", {"dataset__train": [{"source": ROWS}] * 33}, "must have at most 32 items"),
    ("a data file without key", {"dataset__train": [{"source": "s3://data"}]}, DATA_MESSAGE),
    ("a ConfigMap without key", {"dataset__train": [{"source": "configMap://rows"}]}, DATA_MESSAGE),
    ("a claim without file", {"dataset__train": [{"source": "pvc://data"}]}, DATA_MESSAGE),
    ("a claim's path that climbs", {"dataset__train": [{"source": "pvc://data/a/../b"}]}, DATA_MESSAGE),
    ("a folder with two slashes at its end", train(source="s3://data/rows//"), DATA_MESSAGE),
    ("a whole bucket of rows", train(source="s3://data/"), DATA_MESSAGE),
    ("a ConfigMap with a folder", train(source="configMap://rows/a/"), DATA_MESSAGE),
    ("a configuration without a name", train(source="hf://org/rows:"), DATA_MESSAGE),
    ("a configuration with a path", train(source="hf://org/rows:a/b"), DATA_MESSAGE),
    ("a configuration that climbs", train(source="modelscope://org/rows:.."), DATA_MESSAGE),
    ("a configuration of a file", train(source="pvc://data/rows:zh"), DATA_MESSAGE),
    (
        "a configuration by two ways",
        train(source="hf://org/rows:zh", subset="zh"),
        "subset and the part of source behind the colon both name the configuration of a hub's data set",
    ),
    ("a split that climbs", train(source="hf://org/rows", split="../test"), "spec.dataset.train[0].split"),
    ("a subset with a slash", train(source="hf://org/rows", subset="a/b"), "spec.dataset.train[0].subset"),
    ("rows on the web", {"dataset__train": [{"source": "https://example.com/a.jsonl"}]}, DATA_MESSAGE),
    (
        "rows and a file in one source",
        train(inline=[{"a": "b"}]),
        "set exactly one of dataset source and inline",
    ),
    (
        "a source with nothing",
        {"dataset__train": [{"format": "Messages"}]},
        "set exactly one of dataset source and inline",
    ),
    (
        "257 rows in the object",
        {"dataset__train": [{"inline": [{"a": "b"}] * 257}]},
        "must have at most 256 items",
    ),
    ("an unknown format", train(format="CSV"), 'Unsupported value: "CSV"'),
    ("an empty column name", train(columns={"text": ""}), "columns.text"),
    (
        "an unknown column",
        train(columns={"question": "q"}),
        'unknown field "spec.dataset.train[0].columns.question"',
    ),
    (
        "a label column of messages",
        train(format="Messages", columns={"label": "y"}),
        "columns.label is read by format Classification only",
    ),
    (
        "an input column of text",
        train(format="Text", columns={"input": "q"}),
        "columns.input is read by format InputTarget and Alpaca only",
    ),
    (
        "a target column of Alpaca",
        train(format="Alpaca", columns={"target": "a"}),
        "columns.target is read by format InputTarget only",
    ),
    (
        "an instruction column of dialogues",
        train(format="Dialogue", columns={"instruction": "i"}),
        "columns.instruction is read by format Alpaca only",
    ),
    (
        "an output column of ShareGPT",
        train(format="ShareGPT", columns={"output": "o"}),
        "columns.output is read by format Alpaca only",
    ),
    (
        "a history column of text",
        train(format="Text", columns={"history": "h"}),
        "columns.history is read by format Alpaca only",
    ),
    (
        "a prompt column of messages",
        train(format="Messages", columns={"prompt": "p"}),
        "columns.prompt is read by format PromptCompletion only",
    ),
    (
        "a completion column of text",
        train(format="Text", columns={"completion": "c"}),
        "columns.completion is read by format PromptCompletion only",
    ),
    (
        "a messages column of Alpaca",
        train(format="Alpaca", columns={"messages": "m"}),
        "columns.messages is read by format Messages and ShareGPT and Dialogue only",
    ),
    (
        "a system column of text",
        train(format="Text", columns={"system": "s"}),
        "columns.system is read by format",
    ),
    (
        "a text column of messages",
        train(format="Messages", columns={"text": "t"}),
        "columns.text is read by format Text and Classification and Dialogue only",
    ),
    (
        "a split of a file",
        train(split="train"),
        "split, subset and revision belong to a data set of a hub, but source is not hf:// or modelscope://",
    ),
    (
        "a revision of rows in the object",
        {"dataset__train": [{"inline": [{"a": "b"}], "revision": "main"}]},
        "split, subset and revision belong to a data set of a hub",
    ),
    (
        "a hub's token for a file",
        train(tokenSecretRef={"name": "hub"}),
        "tokenSecretRef is for a hub, but source is not hf:// or modelscope://",
    ),
    (
        "a store for a hub's rows",
        {"dataset__train": [{"source": "hf://org/rows", "store": {"region": "eu"}}]},
        "store is for an s3:// source, but source is none",
    ),
    ("a weight of zero", train(weight=0), "spec.dataset.train[0].weight"),
    ("no rows at all", train(maxRows=0), "spec.dataset.train[0].maxRows"),
    (
        "validation without rows",
        {"dataset__validation": {}},
        "set exactly one of validation.fraction and validation.sources",
    ),
    (
        "validation by two ways",
        {"dataset__validation": {"fraction": 0.1, "sources": [{"source": ROWS}]}},
        "set exactly one of validation.fraction and validation.sources",
    ),
    ("all rows for validation", {"dataset__validation": {"fraction": 1}}, "spec.dataset.validation.fraction"),
    (
        "weighed validation rows",
        {"dataset__validation": {"sources": [{"source": ROWS, "weight": 2}]}},
        "weight says how often training rows are seen and has no place in validation.sources",
    ),
    (
        "weighed test rows",
        {"dataset__test": [{"source": ROWS, "weight": 2}]},
        "has no place in dataset.test: remove weight",
    ),
    ("an empty list of test rows", {"dataset__test": []}, "spec.dataset.test"),
    ("an empty system prompt", {"dataset__systemPrompt": ""}, "spec.dataset.systemPrompt"),
    ("a loss on the user's words", {"dataset__lossOn": "User"}, 'Unsupported value: "User"'),
]

WRONG_PREPARATION: list[tuple[str, dict[str, Any], str]] = [
    ("rows of no length", {"dataset__preparation__maxLength": 0}, "spec.dataset.preparation.maxLength"),
    (
        "a shortest row longer than the longest",
        {"dataset__preparation": {"minLength": 100, "maxLength": 64}},
        "preparation.minLength is larger than preparation.maxLength",
    ),
    (
        "a shortest row longer than the longest may be",
        {"dataset__preparation": {"minLength": 1025}},
        "preparation.minLength is larger than preparation.maxLength, which is at most 1024 where it is not set",
    ),
    (
        "fewer characters at most than at least",
        {"dataset__preparation": {"minCharacters": 10, "maxCharacters": 5}},
        "preparation.minCharacters is larger than preparation.maxCharacters",
    ),
    (
        "an unknown fate of long rows",
        {"dataset__preparation__overlong": "Split"},
        'Unsupported value: "Split"',
    ),
    (
        "a share of dropped rows where none is dropped",
        {"dataset__preparation__maxInvalidFraction": 0.1},
        "preparation.maxInvalidFraction bounds how many rows are dropped and needs invalidRows: Drop",
    ),
    (
        "more invalid rows than there are",
        {"dataset__preparation": {"invalidRows": "Drop", "maxInvalidFraction": 1.5}},
        "spec.dataset.preparation.maxInvalidFraction",
    ),
    ("an unknown form of Unicode", {"dataset__preparation__unicode": "NFD"}, 'Unsupported value: "NFD"'),
    (
        "an unknown width of characters",
        {"dataset__preparation__fullWidth": "Widen"},
        'Unsupported value: "Widen"',
    ),
    ("an unknown noise", {"dataset__preparation__noise": ["Emoji"]}, 'Unsupported value: "Emoji"'),
    ("the same noise twice", {"dataset__preparation__noise": ["HTML", "HTML"]}, 'Duplicate value: "HTML"'),
    ("noise of no kind", {"dataset__preparation__noise": []}, "spec.dataset.preparation.noise"),
    ("an unknown fate of leaks", {"dataset__preparation__leakage": "Warn"}, 'Unsupported value: "Warn"'),
    (
        "a threshold for exact duplicates",
        {"dataset__preparation": {"duplicates": "Exact", "duplicateThreshold": 0.8}},
        "preparation.duplicateThreshold is for duplicates: TFIDF or MinHash",
    ),
    (
        "a threshold above one",
        {"dataset__preparation": {"duplicates": "TFIDF", "duplicateThreshold": 2}},
        "duplicateThreshold",
    ),
    ("a redaction of names", {"dataset__preparation__redact": ["Name"]}, 'Unsupported value: "Name"'),
    (
        "the same redaction twice",
        {"dataset__preparation__redact": ["Email", "Email"]},
        'Duplicate value: "Email"',
    ),
    (
        "an empty expression",
        {"dataset__preparation__regex": [{"pattern": ""}]},
        "spec.dataset.preparation.regex[0].pattern",
    ),
    (
        "a replacement that replaces nothing",
        {"dataset__preparation__regex": [{"pattern": "x", "replacement": "y"}]},
        "regex replacement and action: Replace belong together",
    ),
    (
        "replacing by nothing said",
        {"dataset__preparation__regex": [{"pattern": "x", "action": "Replace"}]},
        "regex replacement and action: Replace belong together",
    ),
    ("augmentation without a method", {"dataset__preparation__augment": {"methods": []}}, "augment.methods"),
    (
        "augmentation by translation",
        {"dataset__preparation__augment": {"methods": ["BackTranslation"]}},
        "Unsupported value",
    ),
    (
        "a hundred copies of each row",
        {"dataset__preparation__augment": {"methods": ["Reorder"], "copies": 100}},
        "augment.copies",
    ),
    (
        "synonyms without words",
        {"dataset__preparation__augment": {"methods": ["Synonyms"]}},
        "augment.methods Synonyms and augment.wordList belong together",
    ),
    (
        "words without synonyms",
        augmentation("configMap://words/list.txt", "Reorder"),
        "augment.methods Synonyms and augment.wordList belong together",
    ),
    (
        "words on the web",
        augmentation("https://example.com/words.txt"),
        "augment.wordList must be configMap://name/key or s3://bucket/key",
    ),
    (
        "words on a claim",
        augmentation("pvc://words/list.txt"),
        "augment.wordList must be configMap://name/key or s3://bucket/key",
    ),
    (
        "words in a folder",
        augmentation("s3://data/words/"),
        "augment.wordList must be configMap://name/key or s3://bucket/key",
    ),
    (
        "an unknown way to even out classes",
        {"dataset__preparation__balance": {"method": "Duplicate"}},
        'Unsupported value: "Duplicate"',
    ),
    (
        "a ratio below one",
        {"dataset__preparation__balance": {"maxRatio": 0.5}},
        "spec.dataset.preparation.balance.maxRatio",
    ),
    (
        "balanced conversations",
        {"dataset__preparation__balance": {}, **train(format="Messages")},
        "preparation.balance evens out classes, so the format of every dataset.train source must be Classification or Auto",
    ),
]
