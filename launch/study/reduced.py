"""`fmct study --reduced`: the study's headline alone, with the settings of the whole."""

from launch.study.config import StudyConfig


def reduced_study(config: StudyConfig) -> StudyConfig:
    """The same study of `config.reduced`'s objectives and draws, at the most heads and `compared_fraction`.

    Its encoders and cells are those of the whole study, to the byte.
    """
    kept = config.reduced.objectives or tuple(config.objectives)
    objectives = {
        name: config.objectives[name].model_copy(
            update={"parts": tuple(part for part in config.objectives[name].parts if part in kept)}
        )
        for name in kept
    }
    return config.model_copy(
        update={
            "sizes": (max(config.sizes),),
            "fractions": (config.compared_fraction,),
            "seeds": config.seeds[: config.reduced.draws],
            "objectives": objectives,
        }
    )
