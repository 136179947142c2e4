"""The main job: a real picture analysed by real agents, one of them killed on the way."""
