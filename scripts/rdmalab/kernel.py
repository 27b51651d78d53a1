from pathlib import Path
def user_mode():
    return Path("/root/.cache/netacc/lab/linux-hand")
