"""The contract between `my_backend` and a model class, as a class with a default for everything but `predict`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings

from label_studio_format.annotations import label_of, selected_in
from label_studio_format.image_value import image_url
from label_studio_format.labeling_config import ImageChoices, parse_label_config
from my_backend.errors import BadRequest, MediaError
from my_backend.label_studio.media import Media, MediaRequest
from my_backend.label_studio.media_cache import MediaFile
from my_backend.serving.image_pool import ImagePool

Json = dict[str, Any]
Failed = Callable[[int, str, str], None]  # a task's position, why it has no prediction, and the reason code


class ModelAPI:
    """The base of a model class. Write `predict`, and `fit` if the model learns from annotations.

    This class predicts the choice whose images have the most similar mean color:

        class MeanColor(ModelAPI):
            def fit(self, tasks, workdir, **kwargs):
                colors = defaultdict(list)
                for image, choices in self.labeled_images(tasks):
                    colors[choices[0]].append(mean_color(image))
                return {"colors": {choice: np.mean(some, axis=0).tolist() for choice, some in colors.items()}}

            def predict(self, tasks, **kwargs):
                return [self.nearest(image) if image else [] for image in self.images(tasks, **kwargs)]

    The complete class is in `examples/mean_color.py`. Set `MODEL_CLASS=module:Class`; the module is imported from the
    Python path or the working directory.

    - `fit` must return JSON. The backend keeps it as a *version* of the project, and each instance gets the live
      version's as `train_output`. Files in `workdir` that it names are moved into the version.
    - An instance serves one version of one project, from several threads at the same time. After a training run, a new
      instance takes over; requests in progress finish with the old one.
    - Accept `**kwargs` everywhere, so that arguments you don't need are ignored.
    - Raise `my_backend.errors.TrainingError` in `fit` to tell people why training isn't possible. With any other
      exception, the job or the request fails, too, and the exception's message is shown.

    A class that isn't derived from this one can be served, too: it gets this class's defaults for missing methods.
    """

    predicts_untrained = False
    """Whether `predict` is useful before the first training run, as for a pretrained model.

    Then each project gets a version without training as soon as its choices are known; see `untrained`.
    """

    def __init__(
        self,
        label_config: str | None = None,
        train_output: Json | None = None,
        *,
        media: Media | None = None,
        choices_name: str = "",
        **kwargs: Any,
    ) -> None:
        """`train_output` is that of the version to serve, None before the first training run; `media` fetches images.

        `label_config` is the project's labeling config (XML), and `choices_name` the setting `CHOICES`. For the
        argument `embeddings`, see `embed`.
        """
        self.label_config, self.train_output = label_config or "", train_output or {}
        self.media, self._choices_name = media, choices_name

    # --- what a class provides ------------------------------------------------

    def predict(self, tasks: Sequence[Json], **kwargs: Any) -> list[Json | list[Any]]:
        """For each task, in order, a prediction such as `self.prediction(…)` makes, or `[]` if there is none.

        Arguments:
        - `label_config`: the project's current one
        - `deadline`: when the predictions are due, in seconds of the monotonic clock
        - `failed(position, why, reason)`: call it for each image that can't be read, with the task's position, a
          sentence, and one of `my_backend.counters.in_process.REASONS`
        """
        raise NotImplementedError(f"{type(self).__name__} has no method `predict`")

    def fit(self, tasks: Sequence[Json], workdir: str, **kwargs: Any) -> Json | None:
        """Learns from annotated tasks; returns the new version's `train_output`, None if there is nothing to publish.

        Read `tasks` in order: the sequence unpacks each task when you reach it, because all of them may not fit in
        memory.

        Arguments:
        - `kind`: `head` for a quick training run, `full` for a complete one
        - `given`: what the last complete training run returned as `given`, if its version still exists; otherwise ""
        - `attempt`: 1, or more if the process died before it completed another epoch; `workdir` is as it was left
        - `random_sample`: ids of the tasks that are a random sample of the project's images. The accuracy on them is
          valid for all images, no matter how people chose the other tasks to label
        - `progress(record)`: call it regularly with the job's state, such as `phase`, `epoch`, `epochs`, `loss`,
          `accuracy`, `seconds_left` and `done` (0 to 1). It raises an exception to stop the job; don't catch it
        - `publish(train_output)`: publishes a version before `fit` returns

        A task with the key `corrected` is an image that someone corrected over HTTP, and has the URL `kept:<digest>`.

        Some keys of the returned dict have a meaning:
        - `held_back`: the reason why the version must not go live automatically; "" if it may
        - `figures`, `labels`, `warning`, `summary`: shown on the page
        - `first_guess`: true if the predictions aren't learned from labels; they can't be accepted without review then
        - `given`: a text that identifies everything the training run depended on, such as a digest. If the next full
          training run gets the same text and would make the same version, it should return None instead; the page then
          says that there is nothing to learn
        - `updated`: true if a quick training run has only updated the live version with the new labels. When no more
          labels arrive, `fit` is called again with the kind `head` and the same tasks, and should learn all of them.
          `labels_since` in `figures` is the number of labels that were added after the metrics were measured
        - `settings`: the settings with which the model was made, such as its network, by name; the model card lists
          them
        - `mistakes`: path of a JSON file as `task_classifier/version_files.py` writes it; the page shows the labels in
          it that may be wrong
        """
        raise BadRequest(f"{type(self).__name__} can't be trained: it has no method `fit`")

    @classmethod
    def untrained(cls, label_config: str) -> tuple[str, Json] | None:
        """The trigger and `train_output` of a version without training; None if `predict` needs a training run first.

        The backend calls it when a project's choices become known or change, and again after `warm_up`. It must
        not take long. By default, `predicts_untrained` decides.
        """
        return ("the model class predicts without training", {}) if cls.predicts_untrained else None

    def prepare(self, tasks: Sequence[Json]) -> None:
        """Prepares for imported tasks, so that their predictions are fast later; called in the background."""

    def order(self, tasks: Sequence[Json], **kwargs: Any) -> list[int] | None:
        """Positions of unlabeled tasks in the order in which to label them; None if predictions keep their scores.

        With `RENEW_PREDICTIONS` it is called in the background, once per version, with at most 10,000 tasks; Label
        Studio gets the places in this order as scores. Leave out only tasks whose images can't be read: every fifth
        task is drawn at random from the others.

        Arguments:
        - `label_config`: the project's current one
        - `check()`: call it regularly. It raises an exception to stop; don't catch it
        """
        return None

    def open_pool(self) -> ImagePool | None:
        """An empty pool that compares images as this instance sees them; None if the class can't compare images.

        With it, people can label groups of look-alikes on the page.
        """
        return None

    def embedding_space(self) -> str:
        """Names the embeddings of this instance, as a folder's name; "" if the class has none to share among hosts.

        Embeddings with different names can't be compared, for example because they are of different networks.
        """
        return ""

    def embed(self, pages: Iterable[Sequence[Json]], file: Path, check: Callable[[], None]) -> int:
        """Writes the embeddings of tasks' images to a new file; returns how many tasks' images could be read.

        Workers call it for ranges of a project's tasks. The backend then renames the file and moves it into the
        subfolder `embedding_space()` of the folder that the constructor gets as `embeddings`. All hosts read it there,
        and instances look for embeddings in that subfolder first. `pages` can be read only once, one page of tasks at a
        time, because the tasks' URLs may contain whole images. Call `check` regularly: it raises an exception to stop;
        don't catch it. Raises OSError if the file can't be written.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method `embed`")

    def classify(self, tasks: Sequence[Json], **kwargs: Any) -> list[Json]:
        """For each task, in order, `prediction`, `confidence` and `scores` by choice, or `error`, a sentence.

        The endpoint for single images uses it; the arguments are those of `predict`, without `failed`.
        """
        return [_classified(result) for result in self.predict(tasks, **kwargs)]

    @classmethod
    def settings(cls) -> BaseSettings | None:
        """The class's own settings, if it has any; the page shows them, and reports misspelled names."""
        return None

    @classmethod
    def warm_up(cls) -> str:
        """Warms up the class, once after its import, in the background; returns a warning for people, or ""."""
        return ""

    @classmethod
    def describe(cls) -> Json:
        """What computes predictions, known after `warm_up`: `network`, `weights`, `device`, `cuda` (a version)."""
        return {}

    @classmethod
    def adopt(cls, folder: Path, workdir: Path) -> Json:
        """The `train_output` for a model that was trained elsewhere, after copying its files into `workdir`.

        `python -m my_backend publish` calls it.
        """
        raise BadRequest(f"{cls.__name__} can't import models: it has no method `adopt`")

    @classmethod
    def export_problem(cls) -> str:
        """Why `export_onnx` would fail on this server, and how to fix it, for example by installing a package; or "".

        The page shows it in place of the button.
        """
        return ""

    def export_onnx(self, folder: Path, tasks: Sequence[Json]) -> Json:
        """Writes the model to `folder` as `model.onnx`, and its classes, in order, one per line, as `labels.txt`.

        If it also writes a script `example.py` that classifies images, the page says how to run it. Returns
        `difference`, the largest difference in probability between the module and the model, and `images`, the number
        of the tasks' images that were compared, or 0 if none could be read. It runs in a separate process, for at most
        ten minutes. Raises BadRequest, with the reason.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method `export_onnx`")

    @staticmethod
    def thumbnail(path: Path) -> bytes:
        """A small JPEG of an image file, for the page; raises ValueError if the image can't be read."""
        raise ValueError("the model class has no method `thumbnail`")

    @classmethod
    def picture(cls, path: Path) -> bytes:
        """A JPEG of an image file that is large enough to label it, like `thumbnail`."""
        return cls.thumbnail(path)

    @classmethod
    def cache_lookups(cls) -> dict[str, int]:
        """How many embeddings this process found in the model's cache (`hit`), and how many it didn't (`miss`)."""
        return {}

    # --- what a class can use -------------------------------------------------

    @cached_property
    def tag(self) -> ImageChoices:
        """The tag that is predicted, with its Image tag; raises BadRequest if the labeling config has none."""
        config = parse_label_config(self.label_config, self._choices_name)
        if config.image_choices is None:
            raise BadRequest(config.problem)
        return config.image_choices

    def images(
        self,
        tasks: Sequence[Json],
        *,
        deadline: float = float("inf"),
        failed: Failed = lambda position, why, reason: None,
        **kwargs: Any,
    ) -> list[Path | None]:
        """For each task, in order, its image as a local file, or None after a call of `failed`.

        The arguments are those of `predict`.
        """
        found: list[Path | None] = []
        for position, file in enumerate(self._fetch(tasks, deadline)):
            if isinstance(file, MediaError):
                failed(position, str(file), file.reason)
            found.append(file.path if isinstance(file, MediaFile) else None)
        return found

    def labeled_images(self, tasks: Sequence[Json]) -> Iterator[tuple[Path, list[str]]]:
        """The image and the choices of each task that has both, as a local file and as names in the labeling config.

        If the annotators disagree, the majority decides; see `label_studio_format.annotations.label_of`.
        """
        labels = [label_of(task, self.tag) for task in tasks]
        used = [position for position, label in enumerate(labels) if label.outcome == "used"]
        for position, image in zip(used, self.images([tasks[position] for position in used]), strict=True):
            if image is not None:
                yield image, sorted(labels[position].choices)

    def prediction(self, *choices: str, score: float) -> Json | list[Any]:
        """A prediction in Label Studio's format; `score` is the probability that it is right, from 0 to 1.

        The result is `[]`, no prediction, if the labeling config lacks one of the choices, for example a renamed one.
        """
        return self.tag.prediction(choices, score) if set(choices) <= set(self.tag.choices) else []

    def _fetch(self, tasks: Sequence[Json], deadline: float) -> list[MediaFile | MediaError]:
        assert self.media is not None, "images can only be fetched by an instance that my_backend has made"
        urls = [image_url(task.get("data") or {}, self.tag.field) for task in tasks]
        wanted = [MediaRequest(url, task.get("id")) for task, url in zip(tasks, urls, strict=True) if url]
        found = iter(self.media.fetch_all(wanted, deadline))
        return [next(found) if url else MediaError("the task has no image URL", "no_url") for url in urls]


@lru_cache(maxsize=8)
def with_defaults(model_class: type) -> type[ModelAPI]:
    """The class, with the defaults of `ModelAPI` for the methods that it lacks."""
    if issubclass(model_class, ModelAPI):
        return model_class
    named = {"__module__": model_class.__module__, "__doc__": model_class.__doc__}
    return type(model_class.__name__, (model_class, ModelAPI), named)


def _classified(result: Any) -> Json:
    """What `classify` returns, from a prediction in Label Studio's format."""
    for region in result["result"] if result else ():
        if choices := selected_in(region):
            names = ["/".join(choice) if isinstance(choice, list) else choice for choice in choices]
            score = result.get("score")
            prediction = names[0] if len(names) == 1 else names
            return {"prediction": prediction, "confidence": score, "scores": dict.fromkeys(names, score)}
    return {"error": "the model has no prediction for this image; see the backend's log"}
