"""Files of rows: told by their content, unpacked, decoded and read row by row in bounded memory."""

from finetune_trainer.data.files.bounds import MAX_ROW_BYTES
from finetune_trainer.data.files.no_rows import NoRows
from finetune_trainer.data.files.reading import describe_file, read_file

__all__ = ["MAX_ROW_BYTES", "NoRows", "describe_file", "read_file"]
