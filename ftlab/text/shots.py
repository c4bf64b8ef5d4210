"""Prompting instead of training: answered examples in front of a question, and finding those that are most like it.

In-context learning (Brown et al. 2020) puts the same few examples in front of every question; retrieval (Lewis et al. 2020)
looks up for each question those that fit. Simplification: the retriever counts words (TF-IDF; Spärck Jones 1972), where
larger systems compare embeddings.
"""

import collections
import math
import re

from ftlab.text.template import alpaca, alpaca_response

FORMS = ("alpaca", "plain", "arrow")


def shown(task, form="alpaca"):
    """An answered task as it stands in a prompt."""
    answer = alpaca_response(task.response) if form == "alpaca" else f" {task.response}"
    return f"{asked(task, form)}{answer}\n\n"


def asked(task, form="alpaca"):
    """A task as it stands at a prompt's end, its answer to come. form "arrow" has no instruction: what is wanted is for
    the examples to show."""
    if form == "alpaca":
        return alpaca(task.instruction, task.input)
    return f"{task.input}\n->" if form == "arrow" else f"{task.input}\n\nQuestion: {task.instruction}\nAnswer:"


def few_shot_prompt(task, shots, form="alpaca"):
    """The text that shows `shots` (answered tasks) and then asks `task`."""
    return "".join(shown(shot, form) for shot in shots) + asked(task, form)


def words(text):
    """The words of a text, in lower case."""
    return re.findall(r"[a-z]+", text.lower())


class Retriever:
    """Finds the tasks that are most like another one, by the words that they share.

    A text is a vector with a number for each word: how often it occurs, times log(documents / documents with the word),
    so that rare words count; likeness is the cosine of two such vectors.
    """

    def __init__(self, tasks):
        self.tasks = list(tasks)
        counts = [collections.Counter(words(f"{task.instruction} {task.input}")) for task in self.tasks]
        holds = collections.Counter(word for count in counts for word in count)
        self.weight = {word: math.log(len(self.tasks) / n) for word, n in holds.items()}
        self.vectors = [self._vector(count) for count in counts]

    def _vector(self, counts):
        made = {word: n * self.weight[word] for word, n in counts.items() if self.weight.get(word)}
        length = math.sqrt(sum(x * x for x in made.values())) or 1.0
        return {word: x / length for word, x in made.items()}

    def scores(self, task):
        """The likeness of each document to a task, in [0, 1]."""
        query = self._vector(collections.Counter(words(f"{task.instruction} {task.input}")))
        return [sum(x * vector.get(word, 0.0) for word, x in query.items()) for vector in self.vectors]

    def find(self, task, k):
        """The k most similar tasks, the most similar one last: nearest to the question."""
        scores = self.scores(task)
        best = sorted(range(len(self.tasks)), key=lambda i: -scores[i])[:k]
        return [self.tasks[i] for i in reversed(best)]
