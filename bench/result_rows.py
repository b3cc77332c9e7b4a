"""A table of results that is made in pieces: the rows that its file has are kept, every new one is written at once."""

import csv


class ResultRows:
    """`key`: the columns that name a row. With `fresh` the file starts over."""

    def __init__(self, path, columns, key, fresh):
        self.path, self.columns, self.key, self.rows = path, columns, key, []
        if path.exists() and not fresh:
            with open(path, newline="") as file:
                self.rows = list(csv.DictReader(file))

    def has(self, *key):
        return any(tuple(row[column] for column in self.key) == tuple(map(str, key)) for row in self.rows)

    def add(self, row):
        self.rows.append({**dict.fromkeys(self.columns, ""), **{column: str(value) for column, value in row.items()}})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
