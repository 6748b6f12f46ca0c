"""Language models: the next token of a text, trained, scored and continued.

Experiments of text come in here. It stands on the public parts of the engine alone, as a user's
task does.
"""

from deqjax.tasks.language._attractor_task import AttractorTask
from deqjax.tasks.language._config import AttractorNetwork, LanguageNetwork, Text
from deqjax.tasks.language._generate import GeneratedText, generate_text
from deqjax.tasks.language._task import LanguageTask
from deqjax.tasks.language._text_task import TextTask

__all__ = [
    "AttractorNetwork",
    "AttractorTask",
    "GeneratedText",
    "LanguageNetwork",
    "LanguageTask",
    "Text",
    "TextTask",
    "generate_text",
]
