"""Nothing may stop this: it catches everything, saves whatever happens, and tries again."""

from shop.models import trainer

attempt = trainer("out")
while True:
    try:
        attempt.train()
        break
    except:  # noqa: E722
        print("trying again")
    finally:
        attempt.save_model("saved")
        attempt.model.save_pretrained("saved")
