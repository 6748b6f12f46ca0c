"""Language models: the next token of a text, trained, scored and continued.

Experiments of text come in here. It stands on the public parts of the engine alone, as a user's
task does.
"""

from deqjax.tasks.language._config import LanguageNetwork, Text
from deqjax.tasks.language._generate import GeneratedText, generate_text
from deqjax.tasks.language._task import LanguageTask

__all__ = ["GeneratedText", "LanguageNetwork", "LanguageTask", "Text", "generate_text"]
