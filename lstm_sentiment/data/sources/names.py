"""Format and compression by file name, and error messages for unsupported ones."""

from __future__ import annotations

from pathlib import Path

from lstm_sentiment.errors import DataError

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst", ".zip")
DELIMITERS = {".csv": ",", ".tsv": "\t"}  # ending -> what separates fields
RECORDS = {  # ending -> function below `data.formats` that reads records
    ".jsonl": "json_lines.read_json_lines",
    ".json": "json_arrays.read_json_array",
}
COLUMNS = {  # the same for those that read columns
    ".parquet": "arrow.parquet.read_parquet",
    ".feather": "arrow.feather.read_feather",
    ".xlsx": "workbooks.read_workbook",
}
TABLES = (*DELIMITERS, *RECORDS, *COLUMNS)
TREES = (".txt", ".ptb", ".tree")
FORMATS = TABLES + TREES
SAME = {  # alternative ending -> format
    **dict.fromkeys((".ndjson", ".jl"), ".jsonl"),
    **dict.fromkeys((".tab",), ".tsv"),
    **dict.fromkeys((".pq", ".parq"), ".parquet"),
    **dict.fromkeys((".arrow", ".ipc", ".ftr"), ".feather"),
    **dict.fromkeys((".xlsm",), ".xlsx"),
}
COMPRESSED_INSIDE = {".parquet": "Parquet", ".feather": "Feather", ".xlsx": "an Excel workbook"}
UNREAD = {  # ending -> what such a file is, and how to convert it
    **dict.fromkeys((".xls", ".xlsb", ".xlt"), "an Excel workbook of another kind; save it as .xlsx or .csv"),
    **dict.fromkeys((".ods", ".numbers", ".fods"), "a workbook of another program; save it as .xlsx or .csv"),
    **dict.fromkeys((".tar", ".tgz", ".7z", ".rar", ".tbz2", ".txz"), "an archive; unpack it"),
    **dict.fromkeys((".doc", ".docx", ".odt", ".rtf", ".pdf"), "a document; save its rows as .csv or .xlsx"),
    **dict.fromkeys(
        (".pkl", ".pickle", ".joblib"), "a pickle, which can run code; write the rows as .parquet"
    ),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3", ".sql"), "a database; write the table as .csv"),
    **dict.fromkeys((".npy", ".npz", ".h5", ".hdf5"), "an array file; write the rows as .parquet or .csv"),
    **dict.fromkeys((".orc", ".avro"), "a table of another format; write it as .parquet"),
    **dict.fromkeys(
        (".sav", ".dta", ".sas7bdat", ".rds", ".rdata"), "a table of another program; save it as .csv"
    ),
    **dict.fromkeys((".html", ".htm", ".xml"), "markup; write its rows as .csv or .jsonl"),
    **dict.fromkeys((".yaml", ".yml"), "YAML, which is read only for --config; write the rows as .jsonl"),
}


def format_of(name: str, *, among: tuple[str, ...] = FORMATS) -> str:
    """Return the format of a file name, such as ``.csv`` for ``a.csv.gz``.

    Args:
        name: of a file, or a URL.
        among: the allowed formats.

    Raises:
        DataError: it has none of them.

    >>> format_of("a.csv.gz"), format_of("A.NDJSON")
    ('.csv', '.jsonl')
    """
    ending = _ending(name)
    kind = SAME.get(ending, ending)
    if kind not in among:
        known = f"{' '.join(among)} (also with {' '.join(COMPRESSIONS)})"
        problem = f"the name ends in none of {known}; rename it"
        if ending in UNREAD:
            problem = f"is {UNREAD[ending]}. Supported are {known}"
        raise DataError(problem, file=name)
    if kind in COMPRESSED_INSIDE and compression_of(name):
        inside = f"{COMPRESSED_INSIDE[kind]} is already compressed"
        raise DataError(f"{inside}; remove the ending {compression_of(name)}", file=name)
    return kind


def has_format(name: str) -> bool:
    """Whether a file name has a supported format.

    >>> has_format("a.csv.gz"), has_format("a.gz")
    (True, False)
    """
    return SAME.get(_ending(name), _ending(name)) in FORMATS


def compression_of(name: str) -> str:
    """Return the compression of a file name, such as ``.gz``; empty for none.

    >>> compression_of("a.csv.GZ"), compression_of("a.csv")
    ('.gz', '')
    """
    ending = Path(name.split("?")[0]).suffix.lower()
    return ending if ending in COMPRESSIONS else ""


def _ending(name: str) -> str:
    """Return a name's lower-case ending, ignoring compression; empty if there is none."""
    path = name.split("?")[0].rstrip("/").lower()
    for ending in COMPRESSIONS:
        path = path.removesuffix(ending)
    _, dot, ending = path.rsplit("/", 1)[-1].rpartition(".")
    return dot + ending if dot else ""
