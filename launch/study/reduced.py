"""`fmct study --reduced`: only the study's main comparison, with the settings of the full study."""

from launch.study.config import StudyConfig


def reduced_study(config: StudyConfig) -> StudyConfig:
    """The study with objectives and draws of `config.reduced`, at the largest size and `compared_fraction`.

    Its encoders and cells are byte-identical to those of the full study.
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
